"""Images to train on, from wherever they are.

    dataset = load("mnist", limit=1000)
    print(dataset.summary())
    with Batches(dataset.train, batch_size=128, seed=0, device="cuda") as batches:
        for batch in batches.epoch(0):
            batch.images, batch.labels

A source in ``sources/`` (``idx``, ``folder``, ``vision``, ``hub``) gives pictures one by one. ``sizing``
chooses the size and the channels of the images, ``loading`` decodes them, ``batches`` reads them from memory
and ``streaming`` from the source, with worker processes. All but the last two do without torch, so that a
wrong ``--data`` is an error before torch is imported.
"""
