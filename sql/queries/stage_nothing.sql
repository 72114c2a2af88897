-- The same table when no walk brought a row.
create or replace temp table spooled (
    kind varchar, scope varchar, id varchar, observed_at timestamptz, ordinal bigint,
    digest varchar, "row" json
)
