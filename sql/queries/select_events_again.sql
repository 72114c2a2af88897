-- A stretch of the event log that is sent again; what belongs to a baseline never was.
select *
from events
where
    not baseline
    and sequence > $after
    and sequence <= $upto
    and list_contains($types, type)
    and list_contains($sources, source)
order by sequence
limit $limit
