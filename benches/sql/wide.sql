-- One column of every common type, about 220 bytes a row, with few NULLs. The same at every run;
-- psql -v rows=N says how many.

SET TIME ZONE 'UTC';
SELECT setseed(0.75);

DROP TABLE IF EXISTS wide;
CREATE TABLE wide (
  id bigint PRIMARY KEY,
  customer integer NOT NULL,
  amount numeric(12,2) NOT NULL,
  reference text NOT NULL,
  note text,
  created_at timestamptz NOT NULL,
  due date,
  paid boolean NOT NULL,
  weight double precision,
  attributes jsonb,
  token uuid NOT NULL,
  status varchar(20) NOT NULL
);

INSERT INTO wide
SELECT n,
       (luck * 100000)::integer,
       round((luck * 90000)::numeric, 2),
       'REF-' || lpad(n::text, 12, '0'),
       CASE WHEN n % 8 > 0 THEN 'left at the door of house ' || n % 1000 || ', rung ' || n % 3 || ' times' END,
       timestamptz '2023-01-01 00:00:00+00' + n * interval '1.7 seconds',
       CASE WHEN n % 9 > 0 THEN date '2023-01-01' + (n % 700)::integer END,
       n % 3 = 0,
       -- Never integral, so that every engine prints it alike.
       CASE WHEN n % 11 > 0 THEN luck * 1000 + 0.0625 END,
       CASE WHEN n % 5 > 0 THEN jsonb_build_object('city', 'City ' || n % 500, 'tags', jsonb_build_array('a', n % 7)) END,
       md5(n::text)::uuid,
       (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + n % 4]
FROM (SELECT n, random() AS luck FROM generate_series(1, :rows) AS n) AS orders;

VACUUM (FREEZE, ANALYZE) wide;
