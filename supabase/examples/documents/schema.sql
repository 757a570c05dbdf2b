-- A library: documents with their paragraphs, and what is derived from each published document. This is a second
-- project to backfill, beside the sample: another schema, keys that are numbers, and a component that needs another.
--
--   clean_document(document_id, cleaner)   writes one row of library.plain_texts
--   the Edge Function embed_document       writes one row of library.embeddings, from the plain text

create schema library;
grant usage on schema library to service_role;

create table library.documents (
  id            bigint generated always as identity primary key,
  title         text not null,
  state         text not null default 'draft' check (state in ('draft', 'published')),
  published_at  timestamptz,
  deleted_at    timestamptz
);

create table library.paragraphs (
  document_id  bigint not null references library.documents (id) on delete cascade,
  position     integer not null,
  html         text not null,
  primary key (document_id, position)
);

create table library.plain_texts (
  document_id  bigint primary key references library.documents (id) on delete cascade,
  cleaner      text not null,
  words        integer not null,
  text         text not null
);

create table library.embeddings (
  document_id  bigint not null references library.documents (id) on delete cascade,
  model        text not null,
  vector       real[] not null,
  primary key (document_id, model)
);

alter table library.documents   enable row level security;
alter table library.paragraphs  enable row level security;
alter table library.plain_texts enable row level security;
alter table library.embeddings  enable row level security;
grant select, insert, update, delete
  on table library.documents, library.paragraphs, library.plain_texts, library.embeddings
  to service_role;

-- The paragraphs of one document without their tags.
create function public.clean_document(document_id bigint, cleaner text) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := (
    select string_agg(regexp_replace(p.html, '<[^>]*>', '', 'g'), e'\n' order by p.position)
    from library.paragraphs as p
    where p.document_id = clean_document.document_id);
begin
  insert into library.plain_texts (document_id, cleaner, words, text)
  values (clean_document.document_id, clean_document.cleaner, cardinality(regexp_split_to_array(v_text, '\s+')), v_text)
  on conflict on constraint plain_texts_pkey do update
  set cleaner = excluded.cleaner, words = excluded.words, text = excluded.text;
  return jsonb_build_object('words', cardinality(regexp_split_to_array(v_text, '\s+')));
end
$$;

-- What the Edge Function reads and writes. The API knows only the schema public.
create function public.document_text(document_id bigint) returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select t.text
  from library.plain_texts as t
  where t.document_id = document_text.document_id
$$;

create function public.save_embedding(document_id bigint, model text, vector real[]) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into library.embeddings (document_id, model, vector)
  values (save_embedding.document_id, save_embedding.model, save_embedding.vector)
  on conflict on constraint embeddings_pkey do update set vector = excluded.vector
$$;

revoke all on function
  public.clean_document(bigint, text),
  public.document_text(bigint),
  public.save_embedding(bigint, text, real[])
from public, anon, authenticated;
grant execute on function
  public.clean_document(bigint, text),
  public.document_text(bigint),
  public.save_embedding(bigint, text, real[])
to service_role;

-- Sixty published documents of August and September 2025. Every third lacks a text, and two of three lack an embedding.
-- Beside them are a draft, a deleted document, and a document without a paragraph.
insert into library.documents (title, state, published_at, deleted_at)
select
  format('Document %s', n),
  case n when 61 then 'draft' else 'published' end,
  timestamptz '2025-08-01 09:00+00' + (n - 1) * interval '1 day',
  case n when 62 then now() end
from generate_series(1, 63) as n;
insert into library.paragraphs (document_id, position, html)
select
  d.id,
  p,
  format('<p>Paragraph %s of <em>document %s</em>, %s</p>', p, d.id, md5(format('%s %s', d.id, p)))
from library.documents as d
cross join generate_series(1, 3) as p
where d.id <> 63;
select public.clean_document(d.id, 'c1')
from library.documents as d
where d.id <= 60
  and d.id % 3 > 0;
select public.save_embedding(d.id, 'small-1', array[0.5, -0.5, 0.25])
from library.documents as d
where d.id <= 60
  and d.id % 3 = 1;

notify pgrst, 'reload schema';
