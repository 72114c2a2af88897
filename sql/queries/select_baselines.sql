-- The commits that ended a baseline of some listings of a source.
select source, announced_from
from private.scopes
where baseline
group by all
order by announced_from
