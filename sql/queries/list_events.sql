-- The event log of the published copy, filtered; newest `$limit` after `$after`, in order.
select *
from (
    select *
    from events
    where
        sequence > $after
        and ($source is null or source = $source)
        and ($type is null or type glob $type)
        and ($since is null or detected_at >= $since::timestamptz)
    order by sequence desc
    limit $limit
)
order by sequence
