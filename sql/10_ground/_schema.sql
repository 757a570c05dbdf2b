-- The private schema. public holds what people see; backfill_private is not exposed through the API and holds the rest.
-- Every function that needs the owner's rights lives there and asks who calls before it does anything.

create schema backfill_private;
