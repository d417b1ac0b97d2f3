"Train a language model on token files: `python train.py --help` explains, `python train.py` just does it"
try: from mini_llm.workshop.commands import train_command
except KeyboardInterrupt: raise SystemExit(130)     # Ctrl-C before anything has begun

# Edit these, or give any of them as a flag: python train.py --minutes 10 --preset small
hyper_parameters = dict(
    minutes=3,                  # or steps=1000
    preset='auto',              # shape of the network: nano, mini, small, base; or auto, what the minutes ask for
    batch_size=None,            # windows in a batch; None: 16, or what the minutes ask for
    start=None,                 # a run, or a Qwen3 of others, whose weights to go on from; None: random ones
    learning_rate=None,         # for the matrices (Muon); None: 0.014, or less with start
    adam_learning_rate=None,    # for the embedding and the norms (AdamW); None: 0.003, or less with start
    weight_decay=None,          # for the matrices; None: by how often the text will be read
    seed=0,
)

if __name__ == '__main__': raise SystemExit(train_command(**hyper_parameters))
