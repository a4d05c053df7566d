"""What a user asks for, from end to end: train, evaluate, predict, segment, find objects, check, report.

May use: tasks and below. The command line and `import frugalseg` call these and nothing deeper.
"""
