"""`python -m dynamo.cli`: the same as `dynamo`."""

from dynamo.cli import main

if __name__ == "__main__":
    main()
