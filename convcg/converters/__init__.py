"""Logs that people already have, as the three tables of `convcg.schema`: one module a format, and what they share.

    rees46            REES46's eCommerce behaviour data: CSV, monthly files, brand as advertiser
    retailrocket      RetailRocket: events, item properties, category tree
    otto              OTTO's recommender challenge: JSON lines
    ali_display_ads   Alibaba's display ads: impressions and clicks of ads with their real advertisers
    dunnhumby         The Complete Journey as Parquet: purchases, mailed coupons, households
    jd_dwell          JD's micro-behaviours (WSDM 2020): sessions with real dwell times

Each module has `convert(source, output)` and says in its first lines what it does with whatever has no place in the
contract. Nothing is drawn, guessed or filled in, except where a module says so. `source` finds the files, `text_rows`
reads CSV and `line_blocks` lines, `times` reads clocks, `latest` keeps one row a pin, `output` writes all or nothing,
`command` is the verb.
"""
