-- The event log after a sequence, to be relayed. Baseline events are not delivered, so a first sync
-- of a large listing need not carry their rows.
select * replace (
    case when not baseline then before end as before,
    case when not baseline then after end as after
)
from events
where sequence > $after
order by sequence
limit $limit
