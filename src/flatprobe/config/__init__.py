"""Reading a YAML file into frozen models, with the line of every problem. Knows no study."""
