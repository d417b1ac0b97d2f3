"The command `mini_llm`, and `python -m mini_llm`: written by hand, since it must import nothing before it has begun"
def main():
    "Start the command that is named first, or say what there is"
    try: from mini_llm.workshop.commands import main
    except KeyboardInterrupt: return 130     # Ctrl-C before anything has begun
    return main()

if __name__ == '__main__': raise SystemExit(main())
