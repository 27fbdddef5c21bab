-- The table of routes for smtpproxy, in MySQL or MariaDB, and a user who may read it.
--
--     mariadb < mysql-schema.sql
--
-- Change the password first. docs/databases.md says how the table is used.

CREATE DATABASE IF NOT EXISTS smtpproxy;
USE smtpproxy;

-- The collation is of weight: with another one, mueller and müller, or a and ä, can be one
-- name, and mail goes to the wrong server. With utf8mb4_bin each letter is itself.
CREATE TABLE IF NOT EXISTS routes (
    -- An address, a domain, postmaster, .example.org (the domains in it) or * (everyone else).
    -- In lower case; of a domain the ASCII form (xn--...), and no @ before it.
    pattern VARCHAR(320) NOT NULL PRIMARY KEY,

    -- host, host:port, lmtp:host, lmtp:unix:/path, mx:domain, or several with commas between them.
    -- NULL: as if the row were not there.
    server VARCHAR(1000),

    -- 1: where the server offers TLS, its certificate must verify. 0: it need not.
    tls_verify BOOLEAN NOT NULL DEFAULT TRUE,

    -- For people.
    note VARCHAR(1000) NOT NULL DEFAULT '',

    -- What would never be found is not taken.
    CONSTRAINT pattern_in_lower_case CHECK (pattern = LOWER(pattern)),
    CONSTRAINT pattern_without_spaces
        CHECK (pattern <> '' AND CHAR_LENGTH(pattern) = CHAR_LENGTH(TRIM(pattern))),
    CONSTRAINT pattern_of_a_domain_without_at CHECK (pattern NOT LIKE '@%')
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- It reads this table and does nothing else. '%' is every host: put the address of
-- smtpproxy there, or 'localhost' for the Unix socket.
CREATE USER IF NOT EXISTS 'smtpproxy'@'%' IDENTIFIED BY 'change me';
GRANT SELECT ON smtpproxy.routes TO 'smtpproxy'@'%';
