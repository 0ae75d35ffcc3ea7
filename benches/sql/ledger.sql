-- A table that is then changed (ledger-changes.sql). The same at every run; psql -v rows=N says how many.

SET TIME ZONE 'UTC';

DROP TABLE IF EXISTS ledger;
CREATE TABLE ledger (
  id bigint PRIMARY KEY,
  account integer NOT NULL,
  amount numeric(12,2) NOT NULL,
  note text,
  booked_at timestamptz NOT NULL,
  status varchar(10) NOT NULL
);

INSERT INTO ledger
SELECT n, n % 5000, n / 100.0, CASE WHEN n % 5 > 0 THEN 'booked by clerk ' || n % 300 END,
       timestamptz '2024-01-01 00:00:00+00' + n * interval '3 seconds', 'booked'
FROM generate_series(1, :rows) AS s(n);

VACUUM ANALYZE ledger;
