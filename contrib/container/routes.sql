USE smtpproxy;
INSERT INTO routes (pattern, server, tls_verify, note) VALUES
    ('example.com', 'old:1025', FALSE, 'where everyone is'),
    ('alice@example.com', 'new:1025', FALSE, 'has moved already');
