-- What was seen or asked for again: when, where, with which text. A 404 leaves a suspicion standing,
-- and a place in one listing says nothing about another.
update private.sightings as kept
set
    observed_at = staged.observed_at,
    seen_at = case when staged.gone then kept.seen_at else staged.observed_at end,
    digest = staged.digest,
    scope = staged.scope,
    rank = case when staged.scope = kept.scope then kept.rank end,
    suspected_round = case when staged.gone then kept.suspected_round end
from staged
where kept.source = $source and kept.kind = staged.kind and kept.id = staged.id
