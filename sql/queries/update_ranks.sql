-- Puts a walked order before all we had of that listing; what was not in it keeps its place behind.
with front as (
    select scope, min(rank) as rank
    from private.sightings
    where source = $source and scope in (select distinct scope from placed)
    group by scope
)
update private.sightings as kept
set rank = coalesce(front.rank, 0) - placed.length + placed.place
from placed
left join front on front.scope = placed.scope
where kept.source = $source and kept.scope = placed.scope and kept.id = placed.id
