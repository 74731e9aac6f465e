"""How sure a score is: intervals and tests over the groups (people, recordings) that samples come from."""
