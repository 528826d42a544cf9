"""What a run will take, before it starts: seconds, memory, disk, and networks to try it on."""
