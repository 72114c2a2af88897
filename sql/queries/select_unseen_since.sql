-- Of the ids of rejected holds, those that were not seen since the decision.
select id from private.sightings
where source = $source and id in (select unnest($ids)) and seen_at <= $decided_at
