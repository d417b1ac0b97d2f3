"Take a run to other programs: `python export.py --help`"
try: from mini_llm.workshop.commands import export_command
except KeyboardInterrupt: raise SystemExit(130)     # Ctrl-C before anything has begun

if __name__ == '__main__': raise SystemExit(export_command())
