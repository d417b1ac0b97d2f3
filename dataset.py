"Train a tokenizer and store texts as token ids: `python dataset.py --help`"
import sys

from mini_llm.workshop.commands import dataset_command

if __name__ == '__main__': sys.exit(dataset_command())
