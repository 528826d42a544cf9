"""How good and how varied images are: features, distances, diversity, and a report that says what the numbers mean."""
