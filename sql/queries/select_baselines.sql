-- Per commit that ended a baseline: which listings, and what was found before anything was announced.
with ended as (
    select source, announced_from, list(scope order by scope) as scopes
    from private.scopes
    where baseline
    group by all
),
spans as (
    select *, lag(announced_from) over (partition by source order by announced_from) as previous
    from ended
)
select
    spans.source,
    spans.announced_from,
    spans.scopes,
    count(*) filter (where events.type = 'integration.created') as integrations,
    count(*) filter (where events.type = 'install.created') as installs
from spans
left join events
    on
        events.baseline
        and events.source = spans.source
        and events.detected_at <= spans.announced_from
        and (spans.previous is null or events.detected_at > spans.previous)
group by spans.source, spans.announced_from, spans.scopes
order by spans.announced_from
