"""Pictures of any size: cut into tiles that give what the whole gives, strip by strip."""
