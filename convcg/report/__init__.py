"""`convcg report`: one page that says what a run finds, for people who never saw the code."""
