"""Training on several devices or machines: what TF_CONFIG or --devices ask of tf.distribute, behind one interface.

    nothing given           one process on TensorFlow's default device
    --devices gpus[:N]      MirroredStrategy: every GPU of this machine holds the model and takes a part of each batch
    TF_CONFIG               MultiWorkerMirroredStrategy: the same over machines, one process each
    TF_CONFIG with "ps"     ParameterServerStrategy: variables live on servers, the table sharded over them by rows;
                            the chief hands steps to workers that do not wait for each other

The chief (task "chief", or worker 0 where there is none) evaluates, prints, and writes the model folder.
"""
