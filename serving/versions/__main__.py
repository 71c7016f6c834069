import sys

from serving.versions.command import main

if __name__ == "__main__":
    sys.exit(main())
