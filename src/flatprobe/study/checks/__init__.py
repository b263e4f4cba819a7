"""What is wrong with a study beyond the types of its fields."""
