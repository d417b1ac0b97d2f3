"Packaging: name, version and requirements all come from settings.ini"
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
s = cfg['DEFAULT']

setup(
    name=s['lib_name'], version=s['version'], description=s['description'], keywords=s['keywords'],
    author=s['author'], license_expression='Apache-2.0', license_files=['LICENSE'],
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Education',
                 'Programming Language :: Python :: 3'],
    packages=find_packages(include=[s['lib_name'], f"{s['lib_name']}.*"]),
    package_data={s['lib_name']: ['*.txt', 'browser/*']},
    python_requires=f">={s['min_python']}",
    entry_points=dict(console_scripts=s['console_scripts'].split()),
    install_requires=s['requirements'].split('\n')[1:],
    extras_require={o: s[f'{o}_requirements'].split('\n')[1:] for o in ('dev', 'export', 'bench')})
