-- Scopes whose created events are announced.
select scope, announced_from from private.scopes where source = $source and announced_from is not null
