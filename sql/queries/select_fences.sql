-- The newest lease of each source.
select source, fence from private.fences
