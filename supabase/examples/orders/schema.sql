-- The example of the README: orders that are paid and have no invoice.
--
-- 200 orders since 2026-10-01. 20 are carts. Two are paid and have no lines, so nothing can be invoiced. An outage of
-- three days left paid orders without an invoice, and six of version r1 were never made anew.

create table public.orders (
  id bigint generated always as identity primary key,
  status text not null check (status in ('cart', 'paid', 'shipped')),
  paid_at timestamptz,
  check (paid_at is not null or status = 'cart')
);

create table public.order_lines (
  order_id bigint not null references public.orders,
  line_no integer not null,
  quantity integer not null,
  unit_cents integer not null,
  primary key (order_id, line_no)
);

create table public.invoices (
  order_id bigint primary key references public.orders,
  version text not null,
  total_cents bigint not null
);

alter table public.orders enable row level security;
alter table public.order_lines enable row level security;
alter table public.invoices enable row level security;
grant select, insert, update, delete on public.orders, public.order_lines, public.invoices to service_role;

create function public.make_invoice(p_order_id bigint, p_version text default 'r2') returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.invoices (order_id, version, total_cents)
  select p_order_id, p_version, sum(line.quantity * line.unit_cents)
  from public.order_lines as line
  where line.order_id = p_order_id
  on conflict (order_id) do update
  set version = excluded.version, total_cents = excluded.total_cents;
end;
$$;

revoke execute on function public.make_invoice(bigint, text) from public;
grant execute on function public.make_invoice(bigint, text) to service_role;

insert into public.orders (status, paid_at)
select
  case when n % 10 = 0 then 'cart' when n % 3 = 0 then 'paid' else 'shipped' end,
  case when n % 10 <> 0 then timestamptz '2026-10-01 00:00:00+00' + n * interval '4 hours' end
from generate_series(1, 200) as n;

insert into public.order_lines (order_id, line_no, quantity, unit_cents)
select orders.id, line_no, 1 + orders.id % 3, 100 + orders.id * 7 % 900
from public.orders
cross join generate_series(1, 2) as line_no
where orders.id not in (101, 102);

insert into public.invoices (order_id, version, total_cents)
select orders.id, case when orders.id in (7, 8, 9, 11, 12, 13) then 'r1' else 'r2' end, 200
from public.orders
where orders.paid_at is not null
  and orders.paid_at not between '2026-10-17' and '2026-10-20';
