CREATE TABLE routes (pattern TEXT PRIMARY KEY, server TEXT, tls_verify INTEGER);
INSERT INTO routes VALUES ('example.com', 'mail.example.net', 1);
INSERT INTO routes VALUES ('alice@example.com', 'new.example.net:2525', 0);
