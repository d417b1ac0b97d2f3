"Let a trained model write: `python generate.py \"En un lugar de la Mancha\"`, or `--help` for more"
from mini_llm.generate import main

if __name__ == '__main__': raise SystemExit(main())
