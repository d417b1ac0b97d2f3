"Let a trained model write: `python generate.py \"En un lugar de la Mancha\"`, or `--help` for more"
try: from mini_llm.workshop.commands import generate_command
except KeyboardInterrupt: raise SystemExit(130)     # Ctrl-C before anything has begun

if __name__ == '__main__': raise SystemExit(generate_command())
