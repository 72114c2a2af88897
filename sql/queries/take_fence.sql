-- A lease has begun: an older one cannot commit any more.
insert into private.fences values ($source, $fence, 0)
on conflict do update set fence = greatest(fence, excluded.fence)
