"""The stages as Ray jobs: prepare, train, index, evaluate, publish, pipeline. Thin shells around `convcg`."""
