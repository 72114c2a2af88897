-- The latest answer for each object, unless we already hold a newer one. Narrow: no payloads.
create or replace temp table staged as
with latest as (
    select
        kind,
        id,
        arg_max(rowid, (observed_at, ordinal)) as spool_row,
        arg_max(scope, (observed_at, ordinal)) as scope,
        max(observed_at) as observed_at,
        arg_max(ordinal, (observed_at, ordinal)) as ordinal,
        arg_max(digest, (observed_at, ordinal)) as digest,
        arg_max("row" is null, (observed_at, ordinal)) as gone
    from spooled
    group by kind, id
)
select latest.*, kept.digest as kept_digest, kept.scope as kept_scope
from latest
left join private.sightings as kept
    on kept.source = $source and kept.kind = latest.kind and kept.id = latest.id
where kept.observed_at is null or latest.observed_at >= kept.observed_at
