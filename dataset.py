"Train a tokenizer and store texts as token ids: `python dataset.py --help`"
try: from mini_llm.workshop.commands import dataset_command
except KeyboardInterrupt: raise SystemExit(130)     # Ctrl-C before anything has begun

if __name__ == '__main__': raise SystemExit(dataset_command())
