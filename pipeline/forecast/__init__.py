"""What a recipe would take: tasks, bytes, memory, disk, core-hours, and hours and money on a cluster (`plan`)."""
