-- One commit has one time; the number tells whether the published copy is behind.
update private.store
set committed_at = $commit_at, commit_number = commit_number + $visible
