"""python -m commands.doctor: report what of the environment works, and what to do about the rest."""

import sys

from pipeline import doctor


def main():
    findings = doctor.examine()
    for finding in findings:
        print(finding)
    sys.exit(any(finding.status == doctor.BROKEN for finding in findings))


if __name__ == "__main__":
    main()
