-- Of a commit that ended a baseline: which listings, and what was found before anything of them was
-- announced.
with ended as (
    select scope, announced_from
    from private.scopes
    where baseline and source = $source
),
before as (
    select max(announced_from) as announced_from from ended where announced_from < $announced_from
)
select
    $source as source,
    $announced_from as announced_from,
    (
        select list(scope order by scope) from ended where announced_from = $announced_from
    ) as scopes,
    count(*) filter (where events.type = 'integration.created') as integrations,
    count(*) filter (where events.type = 'install.created') as installs
from before
left join events
    on
        events.baseline
        and events.source = $source
        and events.detected_at <= $announced_from
        and (before.announced_from is null or events.detected_at > before.announced_from)
