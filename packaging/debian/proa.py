from proa.cli.entry import main

main()
