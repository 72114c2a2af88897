-- Which commit of which store this copy shows.
select store_id, commit_number, published_at from publication
