-- What of the event log may be sent again, by type and source: how much, from where to where.
select
    type,
    source,
    count(*) as count,
    min(detected_at) as oldest,
    max(detected_at) as newest,
    min(sequence) as first,
    max(sequence) as last
from events
where
    not baseline
    and ($since is null or detected_at >= $since::timestamptz)
    and ($until is null or detected_at < $until::timestamptz)
    and ($event_id is null or event_id = $event_id)
group by type, source
order by type, source
