-- The private schema. public holds what people see. backfill_private holds the rest and is not exposed through the API.
-- Every function that needs the owner's rights lives there. It asks who calls before it does anything.

create schema backfill_private;
