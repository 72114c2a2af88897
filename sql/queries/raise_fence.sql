-- This lease has committed: an older one cannot any more.
insert into private.fences values ($source, $fence, 1)
on conflict do update set fence = excluded.fence, round = round + 1
