-- The quickstart's shop: every common type, 330,000 rows, the same at every run.
-- The time zone and the seed are fixed; nothing depends on the clock.

SET TIME ZONE 'UTC';
SELECT setseed(0.5);

CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'returned');
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');

CREATE TABLE customers (
  id bigint PRIMARY KEY,
  public_id uuid NOT NULL,
  name text NOT NULL,
  email email,
  born date,
  vip boolean NOT NULL,
  tags text[],
  address jsonb,
  last_ip inet,
  avatar bytea,
  created_at timestamptz NOT NULL
);
COMMENT ON TABLE customers IS 'People who have bought something';

INSERT INTO customers
SELECT g, md5('customer ' || g)::uuid, 'Customer ' || g,
       CASE WHEN g % 7 > 0 THEN 'c' || g || '@example.org' END,
       CASE WHEN g % 5 > 0 THEN date '1950-01-01' + g % 20000 END,
       g % 10 = 0,
       CASE WHEN g % 3 > 0 THEN ARRAY['tag ' || g % 4, NULL, 'with "quotes", and comma'] END,
       jsonb_build_object('city', 'City ' || g % 100, 'zip', lpad((g % 99999)::text, 5, '0')),
       ('10.' || g % 200 || '.' || g % 250 || '.1')::inet,
       CASE WHEN g % 4 = 0 THEN decode(md5(g::text), 'hex') END,
       timestamptz '2024-01-01 00:00:00+00' + g * interval '37 seconds'
FROM generate_series(1, 20000) g;

CREATE TABLE products (
  sku varchar(20) PRIMARY KEY,
  title text NOT NULL,
  price numeric(10,2) NOT NULL,
  weight_kg real,
  rating double precision,
  stock smallint NOT NULL,
  available tstzrange,
  warranty interval,
  opens time,
  data json
);

INSERT INTO products
SELECT 'SKU-' || lpad(g::text, 6, '0'), 'Product ' || g, round((1 + random() * 500)::numeric, 2),
       (random() * 20)::real, random() * 5, (g % 1000)::smallint,
       tstzrange(timestamptz '2024-01-01 00:00:00+00' + g * interval '1 hour', NULL),
       (g % 36) * interval '1 month', time '08:00' + (g % 600) * interval '1 minute',
       json_build_object('colour', (ARRAY['red', 'green', 'blue'])[1 + g % 3])
FROM generate_series(1, 10000) g;

CREATE TABLE orders (
  id bigint PRIMARY KEY,
  customer_id bigint NOT NULL,
  sku varchar(20) NOT NULL,
  status order_status NOT NULL,
  quantity integer NOT NULL,
  total numeric(12,2) NOT NULL,
  discount numeric,
  note text,
  placed_on date NOT NULL,
  placed_at timestamp NOT NULL,
  updated_at timestamptz NOT NULL
);
CREATE INDEX ON orders (updated_at);

INSERT INTO orders
SELECT g, 1 + g % 20000, 'SKU-' || lpad((1 + g % 10000)::text, 6, '0'),
       (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + g % 4]::order_status,
       1 + g % 9, round((5 + random() * 900)::numeric, 2), CASE WHEN g % 6 = 0 THEN round(random()::numeric, 4) END,
       CASE WHEN g % 11 = 0 THEN E'left at the door,\nsecond floor' END,
       date '2024-01-01' + g / 500, timestamp '2024-01-01 00:00:00' + g * interval '3 minutes',
       timestamptz '2024-01-01 00:00:00+00' + g * interval '3 minutes'
FROM generate_series(1, 300000) g;

ANALYZE;
