"Train a tokenizer and store texts as token ids: `python dataset.py --help`"
import sys

from mini_llm.workshop.dataset import main

if __name__ == '__main__': sys.exit(main())
