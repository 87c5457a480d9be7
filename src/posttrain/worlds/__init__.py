"""Small worlds with tools, tasks and end states that can be checked."""
