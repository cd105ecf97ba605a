"""What sharing does to answers: roles trained for each policy, scored under each."""
